// A person at a headless Chromium: opens an address, signs in, agrees or not, and looks at where that ends.
//   node sign_in_person.mjs ADDRESS NAME yes|no [USER_CODE]
// Prints one object of JSON: the last page's address, title and text, and what the browser asked this machine for.

import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const { default: puppeteer } = await import(pathToFileURL(createRequire(import.meta.url).resolve('puppeteer-core')).href);

const [address, name, decision, userCode = ''] = process.argv.slice(2);
const password = process.env.PASSWORD || 'x';
// pages that are made by a script are not there at once, and change without being left
const scripted = process.env.SCRIPTED;
const only = 'MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost , EXCLUDE [::1]';
const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM, headless: true,
  args: ['--no-sandbox', '--disable-gpu', '--no-first-run', `--host-resolver-rules=${only}`],
});
const page = await browser.newPage();
const asked = [];
const errors = [];
page.on('request', (request) => asked.push(`${request.method()} ${request.url().split('?')[0]}`));
page.on('pageerror', (error) => errors.push(String(error)));
const start = new URL(address).origin;
await page.goto(address, { waitUntil: 'domcontentloaded', timeout: 20000 });
const pause = (ms) => new Promise((done) => { setTimeout(done, ms); });
for (let step = 0; step < 8; step += 1) {
  if (scripted) await pause(1500);
  if (new URL(page.url()).origin !== start) break;
  for (const [field, value] of [['login', name], ['username', name], ['password', password], ['user_code', userCode]]) {
    const places = `input[name=${field}]:not([type=hidden]), input#${field}`;
    const input = value && await page.$(field === 'user_code' ? `${places}, input[maxlength="9"]` : places).catch(() => null);
    if (!input) continue;
    await input.evaluate((element) => { element.value = ''; });
    await input.type(value);
  }
  // a page may send its form by itself, and be gone while it is looked at
  const agree = 'button[type=submit][value=allow], input[type=submit][name=allow], button.btn-success';
  const any = 'button[type=submit]:not([name=abort]):not([value=deny]), input[type=submit]';
  const find = async () => await page.$(agree) || await page.$(any) || (scripted && page.$('button.btn-primary:enabled'));
  const button = await find().catch(() => pause(1000).then(find));
  if (new URL(page.url()).origin !== start || !button) break;
  const abort = decision === 'no' && await page.$('a[href$="/abort"], [name=abort]');
  const left = page.waitForNavigation({ waitUntil: 'domcontentloaded', timeout: 20000 });
  const gone = scripted ? Promise.race([left.catch(() => {}), pause(2000)]) : left;
  await Promise.all([gone, (abort || button).click()]);
}
// how it looks: light and dark, on a screen and on a telephone
for (const [scheme, width] of process.env.SCREENSHOTS ? [['light', 900], ['dark', 900], ['light', 375], ['dark', 375]] : []) {
  await page.setViewport({ width, height: 600 });
  await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }]);
  await page.screenshot({ path: `${process.env.SCREENSHOTS}-${scheme}-${width}.png` });
}
const text = await page.evaluate(() => document.body.innerText);
console.log(JSON.stringify({ address: page.url(), title: await page.title(), text, asked, errors }));
await browser.close();
